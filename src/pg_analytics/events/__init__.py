"""Events: loading the demo and example data sets. Any other program may write events with plain SQL as well.

Whoever writes, the change log (`migrations/0001_events.sql`) notes the days that were touched.
"""
