using System.Text;

namespace Stickers;

/// <summary>The results of an evaluation: each measure of the generated videos, and of the autoencoder's reconstructions of the true ones.</summary>
internal sealed class EvaluationTable
{
    private readonly List<(string Measure, string Model, string Best)> _rows = [];

    /// <summary>Adds a row, and prints it.</summary>
    public void Add(string measure, string model, string best)
    {
        _rows.Add((measure, model, best));
        Console.WriteLine($"{measure, -75} {model, -25} {best}");
    }

    /// <summary>Adds how many are right.</summary>
    public void Share<T>(string measure, IReadOnlyCollection<T> made, Func<T, bool> isRight, IReadOnlyCollection<T> best)
    {
        if (made.Count > 0)
        {
            Add(measure, Share(made, isRight), Share(best, isRight));
        }
    }

    /// <summary>Returns the table as Markdown.</summary>
    public string ToMarkdown()
    {
        var text = new StringBuilder("| | generated | autoencoder |\n|---|---|---|\n");
        foreach (var (measure, model, best) in _rows)
        {
            text.Append("| ").Append(measure).Append(" | ").Append(model).Append(" | ").Append(best).Append(" |\n");
        }

        return text.ToString();
    }

    private static string Share<T>(IReadOnlyCollection<T> all, Func<T, bool> isRight)
    {
        var right = all.Count(isRight);
        return FormattableString.Invariant($"{100.0 * right / all.Count:F1} % ({right} of {all.Count})");
    }
}
