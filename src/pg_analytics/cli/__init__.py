"""temporary"""
import asyncio, os, sys
from pg_analytics import app, logs, settings
def main():
    s = settings.load(os.environ)
    logs.configure(format_=s.log_format, level=s.log_level, env=s.env)
    asyncio.run(app.serve(s))
