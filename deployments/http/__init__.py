"""HTTP layer between HAProxy and an application: guard, keys, headers, bodies, error shape."""
