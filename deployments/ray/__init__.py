"""Private interfaces of Ray and Serve that Headrace relies on; each has a contract test."""
