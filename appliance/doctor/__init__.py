"""`lockgate doctor`: what on this machine would keep transparent interception from working, and what to do about it.

A check is a function from `Subject` to findings; `report.py` orders and prints them. Nothing here changes the machine:
what has to be tried is tried in network namespaces that end with the process that made them (`scratch/`).
"""
