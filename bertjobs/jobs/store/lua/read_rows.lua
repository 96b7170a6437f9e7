-- Read some columns of given jobs, in their order; jobs that do not exist are left out.
-- ARGV: ids, columns.
-- Reply: JSON rows as those of list.lua.
-- Errors: none.
local rows = {}
for _, id in ipairs(arg.ids) do
  if is_job_id(id) and redis.call('EXISTS', job_key(id)) == 1 then rows[#rows + 1] = listed_row(id, arg.columns) end
end
return {'OK', #rows == 0 and '[]' or cjson.encode(rows)}
