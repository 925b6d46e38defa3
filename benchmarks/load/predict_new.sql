\set question random(0, 1000000)
SELECT ask('predict new values', :question, statement_of('predict new values', :question));
