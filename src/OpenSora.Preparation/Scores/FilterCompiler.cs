using System.Globalization;
using NCalc;
using NCalc.Exceptions;

namespace OpenSora.Preparation.Scores;

using Row = IReadOnlyDictionary<string, ScoreValue>;

/// <summary>A condition on the scores of a clip, and its text for reports.</summary>
/// <param name="Text">The condition as an expression.</param>
/// <param name="IsMet">Returns whether a clip meets the condition; null if a value is missing that decides it.</param>
internal sealed record FilterCondition(string Text, Func<Row, bool?> IsMet);

/// <summary>Translates expressions, read by NCalc, to functions of a clip's scores. Types are checked before the first clip.</summary>
/// <remarks>NCalc only parses: its functions, conversions and dates are not for filters, and missing values need three-valued logic.</remarks>
internal sealed class FilterCompiler
{
    private static readonly LogicalExpressionParserOptions ParserOptions = new() { AllowCharValues = false };

    private readonly string _expression;
    private readonly Dictionary<string, ScoreColumn> _columns;

    private FilterCompiler(string expression, IReadOnlyList<ScoreColumn> columns)
    {
        _expression = expression;
        _columns = columns.ToDictionary(column => column.Name, StringComparer.Ordinal);
    }

    /// <summary>Translates an expression to conditions: its parts that are joined by "and".</summary>
    internal static IEnumerable<FilterCondition> Compile(string expression, IReadOnlyList<ScoreColumn> columns)
    {
        ArgumentNullException.ThrowIfNull(expression);
        LogicalExpression parsed;
        try
        {
            parsed = LogicalExpressionParser.Parse(expression, ParserOptions, CultureInfo.InvariantCulture, CancellationToken.None);
        }
        catch (Exception e) when (e is NCalcException or FormatException or OverflowException)
        {
            throw new FormatException(
                $"The filter '{expression}' cannot be read: {e.Message}. A filter is an expression such as "
                    + "\"motion > 5 && motion_kind != 'static'\".",
                e
            );
        }

        var compiler = new FilterCompiler(expression, columns);
        return [.. Conditions(parsed).Select(compiler.Condition)];
    }

    private static IEnumerable<LogicalExpression> Conditions(LogicalExpression expression) =>
        expression is BinaryExpression { Type: BinaryExpressionType.And } and
            ? [.. Conditions(and.LeftExpression), .. Conditions(and.RightExpression)]
            : [expression];

    private FilterCondition Condition(LogicalExpression expression) =>
        Compile(expression) is Node.Logic logic
            ? new(logic.Text.StartsWith('(') ? logic.Text[1..^1] : logic.Text, logic.Get) // an operation is in parentheses
            : throw Error("is not a condition. Compare the value with another one, as in \"motion > 5\"");

    private Node Compile(LogicalExpression expression) =>
        expression switch
        {
            ValueExpression value => Literal(value),
            Identifier { Name: "null" } => new Node.Null(),
            Identifier identifier => Column(identifier.Name),
            UnaryExpression unary => Unary(unary.Type, Compile(unary.Expression)),
            BinaryExpression { Type: BinaryExpressionType.In or BinaryExpressionType.NotIn } binary => In(binary),
            BinaryExpression binary => Binary(binary.Type, Compile(binary.LeftExpression), Compile(binary.RightExpression)),
            Function function => throw Error(
                $"calls the function '{function.Identifier.Name}'. Filters have columns, numbers, texts and operators only"
            ),
            _ => throw Error("uses something other than columns, numbers, texts, comparisons, logic and arithmetic"),
        };

    private Node Literal(ValueExpression value) =>
        value.Value switch
        {
            null => new Node.Null(),
            bool logic => new Node.Logic(logic ? "true" : "false", _ => logic),
            string text => new Node.Words($"'{text}'", _ => text),
            int or long or double or decimal when Convert.ToDouble(value.Value, CultureInfo.InvariantCulture) is var number => new Node.Number(
                number.ToString("R", CultureInfo.InvariantCulture),
                _ => number
            ),
            _ => throw Error($"contains '{value.Value}', which is neither a number nor a text"),
        };

    private Node Column(string name)
    {
        if (!_columns.TryGetValue(name, out var column))
        {
            throw Error($"uses the unknown column '{name}'. The columns are {string.Join(", ", _columns.Keys)}. Texts are written in single quotes");
        }

        var text = name.All(each => char.IsAsciiLetterOrDigit(each) || each == '_') ? name : $"[{name}]";
        return column.IsText ? new Node.Words(text, row => Value(row).Text) : new Node.Number(text, row => Value(row).Number);

        ScoreValue Value(Row row) => row.TryGetValue(name, out var value) ? value : ScoreValue.Missing;
    }

    private Node Unary(UnaryExpressionType type, Node operand) =>
        (type, operand) switch
        {
            (UnaryExpressionType.Not, Node.Logic logic) => new Node.Logic($"!{logic.Text}", row => !logic.Get(row)),
            (UnaryExpressionType.Negate, Node.Number number) => new Node.Number($"-{number.Text}", row => -number.Get(row)),
            (UnaryExpressionType.Positive, Node.Number number) => number,
            _ => throw Error($"applies an operator to '{operand.Text}' that it does not have"),
        };

    private Node Binary(BinaryExpressionType type, Node left, Node right)
    {
        var symbol = Symbol(type);
        var text = $"({left.Text} {symbol} {right.Text})";
        return (type, left, right) switch
        {
            (BinaryExpressionType.And, Node.Logic a, Node.Logic b) => new Node.Logic(text, row => a.Get(row) & b.Get(row)),
            (BinaryExpressionType.Or, Node.Logic a, Node.Logic b) => new Node.Logic(text, row => a.Get(row) | b.Get(row)),
            (BinaryExpressionType.Equal, var a, Node.Null) => new Node.Logic(text, IsMissing(a)),
            (BinaryExpressionType.NotEqual, var a, Node.Null) => new Node.Logic(text, row => !IsMissing(a)(row)),
            (_, Node.Number a, Node.Number b) when Arithmetic(type) is { } operation => new Node.Number(text, row =>
                a.Get(row) is { } x && b.Get(row) is { } y && operation(x, y) is var result && !double.IsNaN(result) ? result : null
            ),
            (_, Node.Number a, Node.Number b) when Comparison(type) is { } operation => new Node.Logic(text, row =>
                a.Get(row) is { } x && b.Get(row) is { } y ? operation(x.CompareTo(y)) : null
            ),
            (BinaryExpressionType.Equal or BinaryExpressionType.NotEqual, Node.Words a, Node.Words b) => new Node.Logic(text, row =>
                a.Get(row) is { } x && b.Get(row) is { } y
                    ? string.Equals(x, y, StringComparison.Ordinal) == (type == BinaryExpressionType.Equal)
                    : null
            ),
            (BinaryExpressionType.Equal or BinaryExpressionType.NotEqual, Node.Logic a, Node.Logic b) => new Node.Logic(text, row =>
                a.Get(row) is { } x && b.Get(row) is { } y ? (x == y) == (type == BinaryExpressionType.Equal) : null
            ),
            _ => throw Error($"applies '{symbol}' to {left.Kind} ('{left.Text}') and {right.Kind} ('{right.Text}'), which is not possible"),
        };
    }

    private Node.Logic In(BinaryExpression binary)
    {
        var value = Compile(binary.LeftExpression);
        var list = binary.RightExpression is LogicalExpressionList expressions
            ? [.. expressions.Select(Compile)]
            : new[] { Compile(binary.RightExpression) };
        if (list.Length == 0)
        {
            throw Error("tests for an empty list");
        }

        var isNegated = binary.Type == BinaryExpressionType.NotIn;
        var tests = list.Select(each => (Node.Logic)Binary(BinaryExpressionType.Equal, value, each)).ToArray();
        return new($"({value.Text} {(isNegated ? "not in" : "in")} ({string.Join(", ", list.Select(each => each.Text))}))", row =>
            tests.Aggregate((bool?)false, (found, test) => found | test.Get(row)) ^ isNegated
        );
    }

    private Func<Row, bool?> IsMissing(Node node) =>
        node switch
        {
            Node.Number number => row => number.Get(row) is null,
            Node.Words text => row => text.Get(row) is null,
            _ => throw Error($"compares {node.Kind} ('{node.Text}') with null. Only columns can be missing"),
        };

    private static Func<double, double, double>? Arithmetic(BinaryExpressionType type) =>
        type switch
        {
            BinaryExpressionType.Plus => (a, b) => a + b,
            BinaryExpressionType.Minus => (a, b) => a - b,
            BinaryExpressionType.Times => (a, b) => a * b,
            BinaryExpressionType.Div => (a, b) => a / b,
            BinaryExpressionType.Modulo => (a, b) => a % b,
            _ => null,
        };

    private static Func<int, bool>? Comparison(BinaryExpressionType type) =>
        type switch
        {
            BinaryExpressionType.Equal => order => order == 0,
            BinaryExpressionType.NotEqual => order => order != 0,
            BinaryExpressionType.Lesser => order => order < 0,
            BinaryExpressionType.LesserOrEqual => order => order <= 0,
            BinaryExpressionType.Greater => order => order > 0,
            BinaryExpressionType.GreaterOrEqual => order => order >= 0,
            _ => null,
        };

    private static string Symbol(BinaryExpressionType type) =>
        type switch
        {
            BinaryExpressionType.And => "&&",
            BinaryExpressionType.Or => "||",
            BinaryExpressionType.Equal => "==",
            BinaryExpressionType.NotEqual => "!=",
            BinaryExpressionType.Lesser => "<",
            BinaryExpressionType.LesserOrEqual => "<=",
            BinaryExpressionType.Greater => ">",
            BinaryExpressionType.GreaterOrEqual => ">=",
            BinaryExpressionType.Plus => "+",
            BinaryExpressionType.Minus => "-",
            BinaryExpressionType.Times => "*",
            BinaryExpressionType.Div => "/",
            BinaryExpressionType.Modulo => "%",
            _ => type.ToString(),
        };

    private FormatException Error(string problem) => new($"The filter '{_expression}' {problem}.");

    /// <summary>A part of an expression with its type.</summary>
    private abstract record Node(string Text, string Kind)
    {
        internal sealed record Number(string Text, Func<Row, double?> Get) : Node(Text, "a number");

        internal sealed record Words(string Text, Func<Row, string?> Get) : Node(Text, "a text");

        internal sealed record Logic(string Text, Func<Row, bool?> Get) : Node(Text, "a condition");

        internal sealed record Null() : Node("null", "a missing value");
    }
}
