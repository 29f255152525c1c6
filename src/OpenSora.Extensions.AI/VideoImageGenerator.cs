using Microsoft.Extensions.AI;
using OpenSora.Generation;
using OpenSora.ModelFolders;
using Size = System.Drawing.Size;

namespace OpenSora.Extensions.AI;

/// <summary>Offers single frames of a video generator as <see cref="IImageGenerator"/>; see
/// <see cref="VideoGeneratorPipelineExtensions.AsImageGenerator"/>.</summary>
internal sealed class VideoImageGenerator : IImageGenerator
{
    private readonly IVideoGenerator _generator;

    public VideoImageGenerator(IVideoGenerator generator)
    {
        ArgumentNullException.ThrowIfNull(generator);
        _generator = generator;
    }

    /// <inheritdoc/>
    public async Task<ImageGenerationResponse> GenerateAsync(
        ImageGenerationRequest request,
        ImageGenerationOptions? options = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(request);
        cancellationToken.ThrowIfCancellationRequested();
        var model = _generator.GetService<ModelDescription>();
        Check(request, options, model);

        var mediaType = options?.MediaType ?? "image/png";
        var videos = new List<GeneratedVideo>();
        var contents = new List<AIContent>();
        var usage = new UsageDetails();
        var all = _generator.GenerateManyAsync(Convert(request, options, model), options?.Count ?? 1, cancellationToken: cancellationToken);
        await foreach (var video in all.ConfigureAwait(false))
        {
            var image = video.Frames.Count == 1 ? video : FirstFrame(video);
            contents.Add(await image.ToDataContentAsync(mediaType, cancellationToken).ConfigureAwait(false));
            usage.Add(video.GetUsage());
            videos.Add(video);
        }

        return new ImageGenerationResponse(contents) { RawRepresentation = videos, Usage = usage };
    }

    /// <inheritdoc/>
    public object? GetService(Type serviceType, object? serviceKey = null)
    {
        ArgumentNullException.ThrowIfNull(serviceType);
        return serviceKey is not null ? _generator.GetService(serviceType, serviceKey)
            : serviceType == typeof(ImageGeneratorMetadata)
                ? new ImageGeneratorMetadata("opensora", defaultModelId: _generator.GetService<ModelDescription>()?.Name)
            : serviceType.IsInstanceOfType(this) ? this
            : _generator.GetService(serviceType);
    }

    // The video generator belongs to the application.
    public void Dispose() { }

    // Refuses what single frames of a video cannot be.
    private static void Check(ImageGenerationRequest request, ImageGenerationOptions? options, ModelDescription? model)
    {
        if (request.OriginalImages?.Any() == true)
        {
            throw new NotSupportedException(
                $"The request has original images, but this generator does not change images. To animate one, use {nameof(VideoRequest)}."
                    + $"{nameof(VideoRequest.ConditionOn)} with the video generator."
            );
        }

        if (options?.Count is < 1)
        {
            throw new ArgumentOutOfRangeException(nameof(options), options.Count, "Count must be at least 1.");
        }

        if (options?.ImageSize is { } size && (size.Width < 1 || size.Height < 1))
        {
            throw new ArgumentOutOfRangeException(nameof(options), size, "The width and height of ImageSize must be at least 1 pixel.");
        }

        if (options?.ResponseFormat is { } format and not ImageGenerationResponseFormat.Data)
        {
            throw new NotSupportedException(
                $"ResponseFormat is {format}, but images are not stored under an address; use {ImageGenerationResponseFormat.Data}."
            );
        }

        if (options?.MediaType is { } mediaType && !GeneratedVideoExtensions.TryGetEncoder(mediaType, out _))
        {
            throw new NotSupportedException($"MediaType is '{mediaType}'; the supported types are {GeneratedVideoExtensions.ImageTypes}.");
        }

        if (options?.ModelId is { } id && model is not null && !string.Equals(id, model.Name, StringComparison.Ordinal))
        {
            throw new ArgumentException($"ModelId is '{id}', but the model of this generator is '{model.Name}'.", nameof(options));
        }
    }

    private VideoRequest Convert(ImageGenerationRequest request, ImageGenerationOptions? options, ModelDescription? model)
    {
        var raw = options?.RawRepresentationFactory?.Invoke(this) as VideoRequest;
        var result = raw?.Clone() ?? new VideoRequest();
        result.Prompt = request.Prompt ?? result.Prompt;
        result.Frames ??= Nearest(1, model?.Video.FramesRange);
        if (options?.ImageSize is Size size && result is { Width: null, Height: null })
        {
            (result.Width, result.Height) = (Nearest(size.Width, model?.Video.WidthRange), Nearest(size.Height, model?.Video.HeightRange));
        }

        return result;
    }

    // The nearest value in a range. A model without a description decides itself.
    private static int Nearest(int value, AllowedRange? range)
    {
        if (range is null)
        {
            return value;
        }

        var steps = Math.Round((Math.Clamp(value, range.Min, range.Max) - range.Min) / (double)range.Step, MidpointRounding.AwayFromZero);
        var nearest = range.Min + ((int)steps * range.Step);
        return nearest <= range.Max ? nearest : nearest - range.Step;
    }

    private static GeneratedVideo FirstFrame(GeneratedVideo video) => new(video.Frames.Slice(0, 1));
}
