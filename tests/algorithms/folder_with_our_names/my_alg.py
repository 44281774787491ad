"""Has files beside it that are named like the runner's, and like the standard library's."""

import boards
import boards.store
import channel
import entry
import hkrunner
import json
import limits
import process
import random
import runner
import sandbox
import task


def start(args, api):
    named = [boards, boards.store, channel, entry, hkrunner, json, limits, process, random, runner, sandbox, task]
    return [module.OWNER for module in named]
