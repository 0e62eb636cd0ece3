"""What tests of several rooms share.

wait     conditions, polled until they hold
"""
