"""API keys and clients of the closed cluster."""

KEYS = {
    "all": "a-key-for-everything",
    "routes": "a-key-for-the-routes",
    "slow": "a-key-with-a-quota-0",
}
CLIENTS = [
    {"name": "all", "key": KEYS["all"]},
    {"name": "routes", "key": KEYS["routes"], "models": ["mean", "chain-*"]},
    {"name": "slow", "key": KEYS["slow"], "requests_per_s": 0.01, "burst": 3},
]
