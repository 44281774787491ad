def start(args, api):
    return 1
