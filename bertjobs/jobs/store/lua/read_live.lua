-- Read the attempts whose Ray Job is not known to be gone, of some jobs or of all.
-- ARGV: ids (optional).
-- Reply: now, JSON live rows.
-- Errors: none.
local rows = {}
for _, attempt in ipairs(arg.ids and {} or live_attempts()) do rows[#rows + 1] = live_row(unpack(attempt)) end
for _, id in ipairs(arg.ids or {}) do rows[#rows + 1] = live_row_of_job(id) or nil end
return {'OK', now_ms(), #rows == 0 and '[]' or cjson.encode(rows)}
