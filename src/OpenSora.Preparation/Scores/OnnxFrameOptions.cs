namespace OpenSora.Preparation.Scores;

/// <summary>Specifies how a frame is brought to the size of a model's input.</summary>
public enum FrameFit
{
    /// <summary>The frame is scaled until it covers the input, and its center is used, as CLIP does.</summary>
    Crop,

    /// <summary>The whole frame is scaled to the input, whatever its shape.</summary>
    Stretch,
}

/// <summary>Specifies an ONNX model of images, and how frames are prepared for it. The defaults of the preparation are CLIP's.</summary>
public sealed class OnnxFrameOptions
{
    /// <summary>Gets or sets the path of the model. Its input is a batch of images as 32-bit floating-point numbers.</summary>
    public string ModelPath { get; set; } = "";

    /// <summary>Gets or sets the number of frames, spread evenly over the clip, whose scores are averaged.</summary>
    public int Frames { get; set; } = 3;

    /// <summary>Gets or sets the width of the model's input in pixels.</summary>
    public int Width { get; set; } = 224;

    /// <summary>Gets or sets the height of the model's input in pixels.</summary>
    public int Height { get; set; } = 224;

    /// <summary>Gets or sets how a frame is brought to that size.</summary>
    public FrameFit Fit { get; set; } = FrameFit.Crop;

    /// <summary>Gets or sets the mean of each channel (red, green, blue; 0 to 1), which is subtracted.</summary>
    public IList<float> Mean { get; set; } = [0.48145466f, 0.4578275f, 0.40821073f];

    /// <summary>Gets or sets the standard deviation of each channel (red, green, blue), by which the rest is divided.</summary>
    public IList<float> StandardDeviation { get; set; } = [0.26862954f, 0.26130258f, 0.27577711f];

    /// <summary>Gets or sets a value that indicates whether the input is [batch, height, width, channels] instead of [batch, channels, height,
    /// width].</summary>
    public bool ChannelsLast { get; set; }

    /// <summary>Gets or sets a value that indicates whether the channels are blue, green, red instead of red, green, blue.</summary>
    public bool BlueFirst { get; set; }

    /// <summary>Gets or sets the name of the input; null if the model has only one.</summary>
    public string? InputName { get; set; }

    /// <summary>Gets or sets the name of the output; null for the first one.</summary>
    public string? OutputName { get; set; }

    /// <summary>Gets or sets the number of threads that compute one clip. Clips are scored in parallel, so that 1 is usually best.</summary>
    public int Threads { get; set; } = 1;
}
