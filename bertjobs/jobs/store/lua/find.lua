-- Find the full id of the one job whose id begins with a prefix.
local id, word = find(arg.prefix)
if not id then return {word, arg.prefix} end
return {'OK', id}
