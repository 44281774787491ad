def start(args, api):
    return 2
