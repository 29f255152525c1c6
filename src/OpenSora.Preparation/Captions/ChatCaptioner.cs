using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Microsoft.Extensions.AI;

namespace OpenSora.Preparation.Captions;

/// <summary>Asks a vision model for captions through a chat service: LLaVA behind Ollama, or any server that speaks OpenAI's protocol, such as vLLM
/// or llama.cpp's.</summary>
/// <remarks>A request contains frames of the clip as JPEG. Answers are cleaned: introductions, markdown, lists, quotation marks and unfinished
/// sentences are removed. Refusals and empty answers give a result without a caption.</remarks>
public sealed class ChatCaptioner : ICaptioner, IDisposable
{
    private readonly ChatCaptionerOptions _options;
    private readonly CaptionCache? _cache;
    private readonly ChatRequests _requests;
    private readonly SemaphoreSlim _decoders = new(Environment.ProcessorCount);
    private readonly string _model;

    /// <summary>Initializes a new instance.</summary>
    /// <param name="client">The chat service. It is not disposed.</param>
    /// <param name="options">The options; null for the defaults. They are copied.</param>
    /// <param name="cache">The answers of earlier runs; null to ask for every clip. It is not disposed.</param>
    /// <exception cref="ArgumentException">An option is invalid.</exception>
    public ChatCaptioner(IChatClient client, ChatCaptionerOptions? options = null, CaptionCache? cache = null)
    {
        ArgumentNullException.ThrowIfNull(client);
        _options = (options ?? new ChatCaptionerOptions()).Copy();
        _options.Validate();
        _cache = cache;
        _requests = new ChatRequests(client, _options);
        _model = _options.Model ?? client.GetService<ChatClientMetadata>()?.DefaultModelId ?? "";
        byte[] settings =
        [
            .. SettingsFor(isImage: false, PromptFor(isImage: false, _options.Positions.Length, "of time")),
            .. SettingsFor(isImage: true, PromptFor(isImage: true, 1, "of time")),
        ];
        Identity = $"{_model} {Convert.ToHexStringLower(SHA256.HashData(settings))[..16]}";
    }

    /// <inheritdoc/>
    public string Identity { get; }

    /// <inheritdoc/>
    public void Dispose()
    {
        _requests.Dispose();
        _decoders.Dispose();
    }

    /// <inheritdoc/>
    public async Task<CaptionResult> CaptionAsync(ClipToCaption clip, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(clip);
        if (clip.ContentHash is { } hash && Find(KeyOf(clip, Encoding.UTF8.GetBytes(hash))) is { } known)
        {
            return known;
        }

        byte[] key;
        ChatMessage message;
        try
        {
            await _decoders.WaitAsync(cancellationToken).ConfigureAwait(false);
            try
            {
                var frames = await CaptionFrames
                    .ReadAsync(
                        clip.Info with
                        {
                            Path = clip.Path,
                        },
                        clip.IsImage ? [0] : _options.Positions,
                        _options.FrameSize,
                        _options.FFmpegFolder,
                        cancellationToken
                    )
                    .ConfigureAwait(false);
                key = KeyOf(clip, clip.ContentHash is { } given ? Encoding.UTF8.GetBytes(given) : frames.Hash());
                if (clip.ContentHash is null && Find(key) is { } same)
                {
                    return same;
                }

                message = MessageOf(clip, frames);
            }
            finally
            {
                _decoders.Release();
            }
        }
        catch (PreparationException e)
        {
            return CaptionResult.None(e.Reason, e.Message);
        }

        var request = new ChatOptions
        {
            ModelId = _model.Length > 0 ? _model : null,
            Temperature = _options.Temperature,
            MaxOutputTokens = _options.MaxOutputTokens,
        };
        var (response, failure) = await _requests.SendAsync(message, request, cancellationToken).ConfigureAwait(false);
        if (response is null)
        {
            return failure!;
        }

        var refusal = response.Messages.SelectMany(each => each.Contents).OfType<ErrorContent>().FirstOrDefault();
        var answer = new ChatAnswer(
            refusal?.Message ?? response.Text,
            refusal is null ? response.FinishReason?.Value : ChatFinishReason.ContentFilter.Value,
            response.Usage?.InputTokenCount,
            response.Usage?.OutputTokenCount
        );
        var result = ResultOf(answer);
        if (result.HasCaption || result.Reason is "refused" or "too short")
        {
            _cache?.Add(key, answer); // an empty or garbled answer can be a fault of the server, so it is not kept
        }

        return result with
        {
            InputTokens = answer.InputTokens,
            OutputTokens = answer.OutputTokens,
        };
    }

    private CaptionResult? Find(byte[] key) => _cache?.Find(key) is { } answer ? ResultOf(answer) with { IsFromCache = true } : null;

    private CaptionResult ResultOf(ChatAnswer answer)
    {
        var cleaned = CaptionAnswer.Clean(answer, _options.MinWords, _options.MaxWords);
        return cleaned.HasCaption ? cleaned with { Source = _model.Length > 0 ? _model : "chat" } : cleaned;
    }

    private ChatMessage MessageOf(ClipToCaption clip, CaptionFrames frames)
    {
        IReadOnlyList<byte[]> images =
            _options.Layout == FrameLayout.OnePicture ? [frames.OnePicture(_options.JpegQuality)] : frames.SeparateImages(_options.JpegQuality);
        return new ChatMessage(
            ChatRole.User,
            [.. images.Select(each => new DataContent(each, "image/jpeg")), new TextContent(PromptFor(clip, frames.Pixels.Count))]
        );
    }

    private string PromptFor(ClipToCaption clip, int frames) =>
        PromptFor(
            clip.IsImage,
            frames,
            _options.Layout == FrameLayout.SeparateImages ? "of time"
                : CaptionFrames.IsStacked(clip.Info.Width, clip.Info.Height) ? "from top to bottom"
                : "from left to right"
        );

    private string PromptFor(bool isImage, int frames, string order)
    {
        var words = Math.Max(_options.MinWords, _options.MaxWords * 2 / 3); // models write more than they are asked for
        return isImage ? _options.ImagePrompt ?? CaptionPrompts.ForImage(words) : _options.ClipPrompt ?? CaptionPrompts.ForClip(frames, order, words);
    }

    private byte[] KeyOf(ClipToCaption clip, byte[] content)
    {
        var settings = SettingsFor(clip.IsImage, PromptFor(clip, clip.IsImage ? 1 : _options.Positions.Length));
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(settings);
        hash.AppendData([clip.ContentHash is null ? (byte)0 : (byte)1]);
        hash.AppendData(content);
        return hash.GetHashAndReset();
    }

    // Everything except the clip that an answer depends on.
    private byte[] SettingsFor(bool isImage, string prompt) =>
        JsonSerializer.SerializeToUtf8Bytes(
            (string[])
                [
                    _model,
                    prompt,
                    _options.Layout.ToString(),
                    string.Join(' ', _options.Positions.Select(each => each.ToString("R", CultureInfo.InvariantCulture))),
                    string.Create(
                        CultureInfo.InvariantCulture,
                        $"{isImage} {_options.FrameSize} {_options.JpegQuality} {_options.MaxOutputTokens} {_options.Temperature:R}"
                    ),
                ]
        );
}
