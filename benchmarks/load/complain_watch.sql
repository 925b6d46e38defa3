\set question random(0, 47)
SELECT ask('complain on the watch', :question, statement_of('complain on the watch', :question));
