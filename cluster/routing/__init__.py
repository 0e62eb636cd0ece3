"""What a router decides, without a network in it: every function here is one of its arguments.

contracts.py   what each route takes and gives, or why it cannot be deployed
branches.py    whom to ask now, when it is done, and when to look again
budget.py      what is left of a request's time        hedging.py   when to ask a second one
replicas.py    which replica of a model to ask          canary.py    old version or new
combining.py   several answers as one                   cascading.py which items go on
parts.py       a batch in parts, and whole again        agreement.py two versions compared
calibration.py the threshold that keeps a wanted accuracy
answers.py     the cache: answers by the content of the input
"""
