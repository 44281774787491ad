"""Records of tasks and the boards that show them; only runner's app, serving, console and cli import it.

`runs` is written while tasks run and read back later; `manager` starts, lists and stops boards; `rest_routes`
answers HKube's REST routes for them; `tensorboard` runs in a board's own process, the only one that imports
TensorBoard. Nothing here is imported before it is needed.
"""
