"""`python -m pg_analytics` is the command `pg-analytics`."""

from pg_analytics.cli import main

if __name__ == "__main__":
    main()
