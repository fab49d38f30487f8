-- Requests that no cache has seen: every range of 30 days within a year, with every limit that the answer stays the
-- same under, in an order that comes to each of them once.
-- Environment: PATH_OF_REPORT, MORE (such as "&breakdown=source"), FIRST_DAY (seconds since 1970), FROM (where to begin).
local path = os.getenv("PATH_OF_REPORT")
local more = os.getenv("MORE")
local first = tonumber(os.getenv("FIRST_DAY"))
local number = tonumber(os.getenv("FROM"))
local days = 335

function request()
   number = number + 1
   local start = first + (number % days) * 86400
   local limit = 52 + math.floor(number / days) % 948
   return wrk.format("GET", string.format("%s?date_from=%s&date_to=%s&limit=%d%s", path,
      os.date("!%Y-%m-%d", start), os.date("!%Y-%m-%d", start + 29 * 86400), limit, more))
end
