-- Requests that no cache has seen: every range of 30 days within a year, with every limit that 30 days of one row each
-- fit into, in an order that comes to each of them once (335 and 948 have no common divisor) and mixes short answers
-- with long ones.
-- Environment: PATH_OF_REPORT, MORE (such as "&breakdown=source"), FIRST_DAY (seconds since 1970).
local path = os.getenv("PATH_OF_REPORT")
local more = os.getenv("MORE")
local first = tonumber(os.getenv("FIRST_DAY"))
local number = 0
local days = 335
local ranges = {}

for day = 0, days - 1 do
   local start = first + day * 86400
   ranges[day] = string.format("%s?date_from=%s&date_to=%s", path,
      os.date("!%Y-%m-%d", start), os.date("!%Y-%m-%d", start + 29 * 86400))
end

function request()
   number = number + 1
   return wrk.format("GET", ranges[number % days] .. "&limit=" .. 52 + number * 371 % 948 .. more)
end
