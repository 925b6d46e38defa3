\set question random(0, 47)
SELECT ask('predict', :question, statement_of('predict', :question));
