"""The audit trail: who did what to which resource, committed with the act itself."""
