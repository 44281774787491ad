"""Imports what is not installed."""

import a_package_that_nobody_has


def start(args, api):
    return a_package_that_nobody_has.answer
