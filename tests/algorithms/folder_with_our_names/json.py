OWNER = "user"
