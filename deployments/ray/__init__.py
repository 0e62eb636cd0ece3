"""Everything private of Ray and Serve that Headrace relies on; each call has a contract test."""
