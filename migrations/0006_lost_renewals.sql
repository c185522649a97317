-- Which token took the place of a used one. While that successor is unused, nobody is known to have got it: the answer may have been lost on its way,
-- and the used token is good once more.
ALTER TABLE refresh_tokens ADD COLUMN successor bytea;
