"""Images as people have them: what comes in is what a task sees, and what umoci unpacks."""
def run(instance, report, pattern):
    pass
