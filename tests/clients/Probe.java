// Runs the statements of a file through the PostgreSQL JDBC driver, as reporting tools do: prepared,
// read-only, with metadata asked for first. Prints columns and rows, separated by tabs.
import java.nio.file.*;
import java.sql.*;
import java.util.*;

public class Probe {
    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.setProperty("user", "postgres");
        properties.setProperty("prepareThreshold", "1");
        try (Connection connection = DriverManager.getConnection(arguments[0], properties)) {
            connection.setAutoCommit(false);
            connection.setReadOnly(true);
            for (String sql : Files.readString(Path.of(arguments[1])).split("\n;\n")) {
                if (sql.isBlank()) continue;
                for (int round = 0; round < 2; round++) {
                    try (PreparedStatement statement = connection.prepareStatement(sql)) {
                        statement.setFetchSize(10);
                        ResultSetMetaData probe = statement.getMetaData();
                        ResultSet rows = statement.executeQuery();
                        ResultSetMetaData meta = rows.getMetaData();
                        if (probe.getColumnCount() != meta.getColumnCount()) {
                            throw new IllegalStateException("metadata differs");
                        }
                        List<String> lines = new ArrayList<>();
                        while (rows.next()) {
                            List<String> cells = new ArrayList<>();
                            for (int i = 1; i <= meta.getColumnCount(); i++) {
                                cells.add(String.valueOf(rows.getString(i)));
                            }
                            lines.add(String.join("\t", cells));
                        }
                        if (round == 1) {
                            System.out.println("# " + String.join("\n", lines).replace("\n", "\n# "));
                            System.out.println("--");
                        }
                    }
                }
                connection.commit();
            }
        }
    }
}
