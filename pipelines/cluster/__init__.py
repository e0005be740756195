"""The cluster: how a job finds its Ray, what it runs on, and tasks that are done again."""
