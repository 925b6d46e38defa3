\set question random(0, 47)
SELECT ask('complain', :question, statement_of('complain', :question));
