"""What `manage.py up` does: prepares everything, starts the server's processes and keeps them running.

`instance` claims the data folder and the port, `provision` prepares database, keys and models, `processes` says which
processes there are, `child` keeps one of them alive, `leash` ends them if the supervisor is killed, `readiness` waits
for the first generation, and `supervisor` puts these together.
"""
