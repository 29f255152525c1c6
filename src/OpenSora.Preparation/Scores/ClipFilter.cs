namespace OpenSora.Preparation.Scores;

/// <summary>Specifies what happens to clips that lack a value that a condition needs.</summary>
public enum MissingScores
{
    /// <summary>The clip is removed, and counted as such.</summary>
    Remove,

    /// <summary>The clip is kept, as if the condition were true.</summary>
    Keep,
}

/// <summary>The decision of a filter on one clip.</summary>
/// <param name="Condition">The index of the condition that removes the clip; null if the clip is kept.</param>
/// <param name="IsMissing">Indicates whether the clip is removed because a value is missing.</param>
public readonly record struct FilterDecision(int? Condition, bool IsMissing)
{
    /// <summary>Gets a value that indicates whether the clip is kept.</summary>
    public bool IsKept => Condition is null;
}

/// <summary>Keeps the clips whose scores meet conditions, such as <c>motion &gt; 5 &amp;&amp; sharpness &gt;= 20 &amp;&amp; motion_kind !=
/// 'static'</c>.</summary>
/// <remarks>
/// Expressions consist of columns (in brackets where a name is not a word: <c>[my score]</c>), numbers, texts in single quotes, <c>true</c> and
/// <c>false</c>;
/// <c>== != &lt; &lt;= &gt; &gt;=</c> and <c>in ('pan', 'tilt')</c>; <c>&amp;&amp; || !</c>, also <c>and or not</c>; <c>+ - * / %</c> and
/// parentheses.
/// A comparison with a missing value is neither true nor false; <c>column == null</c> tests for it. Texts are compared exactly, including their case.
/// </remarks>
public sealed class ClipFilter
{
    private readonly IReadOnlyList<FilterCondition> _conditions;
    private readonly MissingScores _missing;

    private ClipFilter(IReadOnlyList<FilterCondition> conditions, MissingScores missing) =>
        (_conditions, _missing, Conditions) = (conditions, missing, [.. conditions.Select(each => each.Text)]);

    /// <summary>Gets the conditions in the order in which they are checked. The parts of an expression that are joined by <c>&amp;&amp;</c> are
    /// conditions of their own.</summary>
    public IReadOnlyList<string> Conditions { get; }

    /// <summary>Reads filter expressions, and checks them against the columns.</summary>
    /// <param name="expressions">The expressions, all of which a clip must meet.</param>
    /// <param name="columns">The columns that the expressions can use.</param>
    /// <param name="missing">Specifies what happens to clips that lack a value that a condition needs.</param>
    /// <exception cref="FormatException">An expression cannot be read, uses an unknown column, or compares a text with a number.</exception>
    public static ClipFilter Parse(IEnumerable<string> expressions, IEnumerable<ScoreColumn> columns, MissingScores missing = MissingScores.Remove)
    {
        ArgumentNullException.ThrowIfNull(expressions);
        ArgumentNullException.ThrowIfNull(columns);
        var known = columns.ToArray();
        return new([.. expressions.SelectMany(expression => FilterCompiler.Compile(expression, known))], missing);
    }

    /// <summary>Reads a filter expression, and checks it against the columns.</summary>
    /// <param name="expression">The expression.</param>
    /// <param name="columns">The columns that the expression can use.</param>
    /// <param name="missing">Specifies what happens to clips that lack a value that a condition needs.</param>
    /// <exception cref="FormatException">The expression cannot be read, uses an unknown column, or compares a text with a number.</exception>
    public static ClipFilter Parse(string expression, IEnumerable<ScoreColumn> columns, MissingScores missing = MissingScores.Remove) =>
        Parse([expression], columns, missing);

    /// <summary>Checks the scores of a clip.</summary>
    /// <param name="scores">The values by the names of their columns. A column without a value is missing.</param>
    /// <returns>Whether the clip is kept, or which condition removes it: the first one that is not true.</returns>
    public FilterDecision Check(IReadOnlyDictionary<string, ScoreValue> scores)
    {
        ArgumentNullException.ThrowIfNull(scores);
        for (var i = 0; i < _conditions.Count; i++)
        {
            var isMet = _conditions[i].IsMet(scores);
            if (isMet is false || (isMet is null && _missing == MissingScores.Remove))
            {
                return new(i, isMet is null);
            }
        }

        return default;
    }
}
