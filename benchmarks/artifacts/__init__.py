"""Artifacts that benchmarks measure, built once into the store.

builder.py      recipe → job in a process of its own → artifact id
program.py      artifact id → the program that a replica loads, on one compute thread
resnet18.py     the int8 ResNet-18 of the serving benchmarks; images.py, its requests
trivial.py      a model of two small layers, whose requests cost only serving
reference.py    the answers that every server of the ResNet-18 must give
"""
