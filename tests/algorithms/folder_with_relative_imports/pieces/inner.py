from ..helper import NAME

INNER = f"inner of {NAME}"
