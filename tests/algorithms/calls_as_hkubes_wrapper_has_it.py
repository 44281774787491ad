"""Uses the code API with HKube's own names and arguments; runs under hkube-python-wrapper and hkrunner."""


def start(args, hkubeApi):
    what, *given = args["input"]
    if what == "algorithm":
        return hkubeApi.start_algorithm(*given)
    if what == "by name":
        return hkubeApi.start_algorithm(algorithmName=given[0], input=given[1], includeResult=given[2])
    if what == "stored":
        return hkubeApi.start_stored_subpipeline(*given)
    if what == "raw":
        return hkubeApi.start_raw_subpipeline("p", *given)
    if what == "source":
        return hkubeApi.getDataSource({"dataSourceId": given[0]})
    return args["input"]
