-- Posts one file over and over: wrk ... -s post.lua URL -- FILE NAME VALUE NAME VALUE ...
-- NAME VALUE are request headers. Prints one line of JSON when it is done; times in ms.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  file:close()
  for i = 2, #args, 2 do
    wrk.headers[args[i]] = args[i + 1]
  end
  non_200 = 0
end

function response(status)
  -- wrk itself counts only statuses above 399.
  if status ~= 200 then
    non_200 = non_200 + 1
  end
end

function done(summary, latency)
  local refused = 0
  for _, thread in ipairs(threads) do
    refused = refused + thread:get("non_200")
  end
  local errors = summary.errors
  print(string.format(
    '{"requests": %d, "duration_s": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f, '
      .. '"non_200": %d, "socket_errors": %d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, latency.max / 1e3, refused,
    errors.connect + errors.read + errors.write + errors.timeout))
end
