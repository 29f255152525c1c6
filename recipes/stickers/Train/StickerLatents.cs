using OpenSora.Models;
using OpenSora.Text;
using OpenSora.Training.Data;

namespace Stickers;

/// <summary>Latents of stickers with tokenized captions, each kind encoded when it is first needed and then kept in a file.</summary>
/// <param name="place">The recipe and its folders.</param>
/// <param name="cancellation">Stops encoding.</param>
/// <param name="stage">Which frames of clips; null: all.</param>
internal sealed class StickerLatents(Workplace place, CancellationToken cancellation, StageSettings? stage = null) : IDisposable
{
    private readonly AutoencoderKL _vae = place.Vae();
    private readonly StickerSet _stills = StickerSet.Stills(place.Data),
        _clips = StickerSet.Clips(place.Data);
    private readonly ITokenizer _tokenizer = Tokenizers.SentencePiece(place.Tokenizer);
    private readonly Dictionary<string, LatentCache> _caches = new(StringComparer.Ordinal);
    private readonly Dictionary<(LatentCache, string?), ITrainingData> _made = [];

    public async Task<IReadOnlyList<IReadOnlyList<string>>> StillCaptionsAsync() => (await StillCacheAsync(StickerSet.Usual)).Captions;

    /// <summary>Stills on some colors each, or on white only.</summary>
    public async Task<ITrainingData> StillsAsync(string style = StickerSet.Usual, bool white = false) =>
        Data(await StillCacheAsync(style), white ? "white" : null, i => !white || i % place.Recipe.StillBackgrounds == 0);

    /// <summary>Clips of things that move by themselves.</summary>
    public async Task<ITrainingData> ClipsAsync() =>
        Data(
            await CacheAsync("clips", () => new StickersOnColors(_clips, place.Chosen(_clips), place.Recipe.ClipBackgrounds)),
            frames: place.Recipe.Frames
        );

    /// <summary>Stills that are moved, perhaps in one way only.</summary>
    public async Task<ITrainingData> MovedAsync(string style = StickerSet.Usual, string? motion = null)
    {
        var moved = place.Moved(_stills, _clips, style);
        return Data(
            await CacheAsync("moved" + Of(style), () => moved),
            motion,
            i => motion is null || string.Equals(motion, moved.Clips[i].Motion.Phrase, StringComparison.Ordinal),
            place.Recipe.Frames
        );
    }

    private Task<LatentCache> StillCacheAsync(string style) =>
        CacheAsync("stills" + Of(style), () => new StickersOnColors(_stills, place.Chosen(_stills, style), place.Recipe.StillBackgrounds));

    private static string Of(string style) => string.Equals(style, StickerSet.Usual, StringComparison.Ordinal) ? "" : "-" + style;

    public void Dispose()
    {
        foreach (var cache in _caches.Values)
        {
            cache.Dispose();
        }

        _stills.Dispose();
        _clips.Dispose();
        _vae.Dispose();
    }

    private async Task<LatentCache> CacheAsync(string name, Func<IClipSource> source)
    {
        if (!_caches.TryGetValue(name, out var cache))
        {
            _caches[name] = cache = await place.CacheAsync(name, source(), _vae, cancellation);
        }

        return cache;
    }

    // The items of a cache that are taken; 'part' names the selection, null for all.
    private ITrainingData Data(LatentCache cache, string? part = null, Func<int, bool>? taken = null, int? frames = null)
    {
        if (!_made.TryGetValue((cache, part), out var data))
        {
            var some = Enumerable.Range(0, cache.Captions.Count).Where(i => taken?.Invoke(i) != false);
            var interval = frames > 1 ? stage?.FrameInterval ?? 1 : 1;
            _made[(cache, part)] = data = cache.AsData(
                _tokenizer,
                place.Recipe.Tokens,
                some,
                (frames - 1) / interval + 1,
                frames > 1 ? stage?.FirstFrame : null,
                interval,
                cleanCaptions: false
            );
        }
        return data;
    }
}
