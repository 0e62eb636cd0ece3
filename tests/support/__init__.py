"""What tests of several rooms share.

wait     conditions, polled until they hold
golden   real artifacts, built once on a machine
"""
