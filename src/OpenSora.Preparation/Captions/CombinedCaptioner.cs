namespace OpenSora.Preparation.Captions;

/// <summary>Merges several captioners into one.</summary>
public sealed class CombinedCaptioner : ICaptioner
{
    private readonly ICaptioner[] _captioners;
    private readonly string? _separator;

    private CombinedCaptioner(ICaptioner[] captioners, string? separator)
    {
        ArgumentNullException.ThrowIfNull(captioners);
        if (captioners.Length == 0 || captioners.Contains(null))
        {
            throw new ArgumentException("At least one captioner is required, and none can be null.", nameof(captioners));
        }

        (_captioners, _separator) = ([.. captioners], separator);
    }

    /// <inheritdoc/>
    public string Identity => string.Join(_separator is null ? " or " : " and ", _captioners.Select(each => each.Identity));

    /// <summary>Creates a captioner that asks others in turn until one has a caption.</summary>
    /// <param name="captioners">The captioners, the preferred one first.</param>
    public static CombinedCaptioner FirstOf(params ICaptioner[] captioners) => new(captioners, separator: null);

    /// <summary>Creates a captioner that joins the captions of others. Those without a caption are left out.</summary>
    /// <param name="captioners">The captioners, in the order of their captions.</param>
    public static CombinedCaptioner JoinOf(params ICaptioner[] captioners) => new(captioners, separator: " ");

    /// <inheritdoc/>
    public async Task<CaptionResult> CaptionAsync(ClipToCaption clip, CancellationToken cancellationToken = default)
    {
        List<CaptionResult> results = [];
        foreach (var captioner in _captioners)
        {
            var result = await captioner.CaptionAsync(clip, cancellationToken).ConfigureAwait(false);
            results.Add(result);
            if (result.HasCaption && _separator is null)
            {
                break;
            }
        }

        var found = results.Where(each => each.HasCaption).ToArray();
        return (found.Length > 0 ? found[0] : results[0]) with
        {
            Text =
                found.Length == 0
                    ? null
                    : string.Join(
                        _separator,
                        found.Select(
                            (each, i) => i < found.Length - 1 && each.Text![^1] is not ('.' or '!' or '?' or '…') ? each.Text + "." : each.Text
                        )
                    ),
            Source = string.Join(" + ", found.Select(each => each.Source)),
            Reason = found.Length > 0 ? null : string.Join("; ", results.Select(each => each.Reason).Distinct(StringComparer.Ordinal)),
            Detail = found.Length > 0 ? null : string.Join(" ", results.Select(each => each.Detail).Where(each => each is not null)),
            IsTemporary = found.Length == 0 && results.Any(each => each.IsTemporary),
            IsFromCache = found.Length > 0 && found.Any(each => each.IsFromCache),
            IsShortened = found.Any(each => each.IsShortened),
            InputTokens = Sum(results.Select(each => each.InputTokens)),
            OutputTokens = Sum(results.Select(each => each.OutputTokens)),
        };

        static long? Sum(IEnumerable<long?> tokens) => tokens.Any(each => each is not null) ? tokens.Sum() : null;
    }
}
