"""Servers that are compared: how each is started on a port, observed and stopped.

contender.py        Endpoint, Server, Contender
headrace.py         a local cluster, deployed as an operator does
script.py           a server script in a process of its own
process_facts.py    memory, CPU time and libraries of a process
footprint.py        the same of all processes of a server
"""
