"""The flow store: what has gone through the gateway, on disk, within a budget, and open to questions while it runs.

A folder of append-only segment files (`segment`, `records`) and an index of them in SQLite (`index`), which can be made
anew from the segments at any time. `recorder` writes, from the event loop; `upkeep` compresses and deletes, in a
thread; `store` and `query` read, from any process.
"""
