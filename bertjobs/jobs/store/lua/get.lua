-- Read a job by its id or the beginning of it.
local id, word = find(arg.prefix)
if not id then return {word, arg.prefix} end
return {'OK', read(id)}
