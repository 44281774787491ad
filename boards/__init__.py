"""What is kept of every task, and the TensorBoard servers that show it.

`store` is written by the runner while tasks run; `history` reads it back; `manager` starts, lists and
stops boards; `api` speaks HKube's REST routes for them. Nothing here is imported before it is used, and
TensorBoard itself is imported only in a board's own process.
"""
