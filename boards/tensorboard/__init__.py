"""One TensorBoard server: its process, its data server, its pages; only boards imports it."""
