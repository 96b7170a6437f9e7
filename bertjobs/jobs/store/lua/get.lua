-- Read a job with its attempts, by its id or an unambiguous prefix of it.
-- ARGV: prefix.
-- Reply: the JSON document of `read`.
-- Errors: UNKNOWN, AMBIGUOUS.
local id, word = find(arg.prefix)
if not id then return {word, arg.prefix} end
return {'OK', read(id)}
