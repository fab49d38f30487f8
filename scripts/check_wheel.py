"""Check the wheel, which is what users get: it is whole, and runs on the run-time lock alone.

It is built, then installed into a throw-away environment with `requirements/run.txt` (hashes checked) and
nothing else, and the command is started outside the checkout: a file that was left out of the wheel, or an
import of a development tool, fails here and not at the user's.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"


def main() -> None:
    """Build, look inside, install, start; exit with a message on the first thing that is wrong."""
    with tempfile.TemporaryDirectory(prefix="check-wheel-") as name:
        folder = Path(name)
        wheel = build(folder)
        check_files(wheel)
        command = install(wheel, folder / "venv")
        check_command(command, folder, version=wheel.name.split("-")[1])
    print(f"{wheel.name}: whole, and runs on requirements/run.txt")


def build(folder: Path) -> Path:
    """Build the wheel of this checkout into `folder` with the pinned backend."""
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder), cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_files(wheel: Path) -> None:
    """Compare the wheel with the source tree: every file of the package, and none besides."""
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [path.relative_to(SOURCE) for path in SOURCE.rglob("*") if path.is_file()]
    caches = (".", "__pycache__")
    sources = {file.as_posix() for file in files if not any(part.startswith(caches) for part in file.parts)}
    if packed != sources:
        sys.exit(f"{wheel.name}: missing {sorted(sources - packed)}, unexpected {sorted(packed - sources)}")


def install(wheel: Path, venv: Path) -> Path:
    """Install the run-time lock and the wheel into a new environment; answer the path of its command."""
    if uv := shutil.which("uv"):
        run(uv, "venv", "--quiet", "--python", sys.executable, str(venv))
        pip = [uv, "pip", "install", "--quiet", "--python", str(venv / "bin" / "python")]
    else:
        run(sys.executable, "-m", "venv", str(venv))
        pip = [str(venv / "bin" / "pip"), "install", "-qq", "--disable-pip-version-check"]
    run(*pip, "--require-hashes", "-r", str(ROOT / "requirements" / "run.txt"))
    run(*pip, "--no-deps", str(wheel))
    return venv / "bin" / "pg-analytics"


def check_command(command: Path, folder: Path, *, version: str) -> None:
    """Start the installed command in `folder`, from where the checkout is out of sight."""
    if version not in run(str(command), "--version", cwd=folder):
        sys.exit(f"pg-analytics --version does not say {version}")
    if "serve" not in run(str(command), "--help", cwd=folder):
        sys.exit("pg-analytics --help does not list the command serve")


def run(*command: str, cwd: Path | None = None) -> str:
    """Run to the end and answer the output; exit with what it said if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
