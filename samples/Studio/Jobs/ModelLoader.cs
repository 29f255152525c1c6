using OpenSora.Generation;

namespace OpenSora.Studio.Jobs;

/// <summary>Loads the model when the application starts, so that the first job does not wait for it.</summary>
internal sealed partial class ModelLoader(IVideoGenerator generator, ILogger<ModelLoader> logger) : BackgroundService
{
    /// <summary>Gets a value that indicates whether the model is loaded.</summary>
    public bool IsLoaded { get; private set; }

    /// <summary>Gets the reason why the model could not be loaded; null if there is none.</summary>
    public string? Error { get; private set; }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        try
        {
            await generator.LoadAsync(cancellationToken: stoppingToken);
            IsLoaded = true;
        }
        catch (Exception e) when (e is not OperationCanceledException)
        {
            Error = e.Message;
            LogNotLoaded(e);
        }
    }

    [LoggerMessage(Level = LogLevel.Error, Message = "The model could not be loaded")]
    private partial void LogNotLoaded(Exception e);
}
