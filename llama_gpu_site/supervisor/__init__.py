"""What `manage.py up` does: prepares everything, starts the server's processes and keeps them running.

`preparation` is what comes before any process: `instance` claims the data folder and the port, `provision` sees to
database, keys and models, `processes` says which processes there are. Then `child` keeps each of them alive, `leash`
ends them if the supervisor is killed, `readiness` waits for the first generation, and `supervisor` conducts.
"""
