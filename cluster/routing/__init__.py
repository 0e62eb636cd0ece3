"""Decisions of a router, as pure functions: no network, no clock.

contracts.py     inputs and outputs of each route, or the reason it cannot be deployed
branches.py      which targets to call now, when the request is done, when to check again
deadline.py      remaining time of a request
replicas.py      which replica of a model to call
answer_cache.py  cached answers, by the content of the input

One file per kind of route, named as in the config:

ensemble.py      several answers combined into one (ensemble, quorum)
cascade.py       items that continue to a larger model
calibration.py   threshold of a cascade that keeps an accuracy goal
hedge.py         when to send a second request
shadow.py        two versions compared
canary.py        verdict on a new version       sampling.py  a share of the requests
scatter.py       a batch split over replicas
"""
