-- Read the attempts whose Ray Job is not known to be gone, with what is needed of their jobs.
local rows = {}
for i, attempt in ipairs(live_attempts()) do rows[i] = live_row(unpack(attempt)) end
return {'OK', now_ms(), #rows == 0 and '[]' or cjson.encode(rows)}
