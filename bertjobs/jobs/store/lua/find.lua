-- Find the full id of the only job whose id begins with a prefix.
-- ARGV: prefix.
-- Reply: the id.
-- Errors: UNKNOWN, AMBIGUOUS.
local id, word = find(arg.prefix)
if not id then return {word, arg.prefix} end
return {'OK', id}
