using System.Globalization;

namespace OpenSora.Preparation.Captions;

/// <summary>The built-in prompts. Both ask for the form that training needs: one paragraph of visible facts that begins with the subject.</summary>
internal static class CaptionPrompts
{
    private const string Style =
        "Write plain sentences in the present tense, and begin with the subject itself. State only what is visible. Do not guess names, thoughts or "
        + "sounds. No title, no list, no opinion, no introduction such as \"The video shows\".";

    /// <summary>Gets the prompt for the frames of a clip.</summary>
    /// <param name="frames">The number of frames.</param>
    /// <param name="arrangement">The order of the frames in the picture, such as <c>from top to bottom</c>.</param>
    /// <param name="words">The most words of the answer.</param>
    internal static string ForClip(int frames, string arrangement, int words) =>
        frames == 1
            ? string.Create(
                CultureInfo.InvariantCulture,
                $"This image is a frame of a short video. Describe the video in one paragraph of at most {words} words: who or what is there, what "
                    + $"happens, the place, the light and the visual style. {Style}"
            )
            : string.Create(
                CultureInfo.InvariantCulture,
                $"These {frames} frames are moments of one short video, in order {arrangement}. Describe the video in one paragraph of at most "
                    + $"{words} words: who or what is there, what it does and how it moves from the first frame to the last, the place, the light, "
                    + $"the visual style, and how the camera moves if that can be seen. Do not mention frames or their arrangement. {Style}"
            );

    /// <summary>Gets the prompt for a still image.</summary>
    /// <param name="words">The most words of the answer.</param>
    internal static string ForImage(int words) =>
        string.Create(
            CultureInfo.InvariantCulture,
            $"Describe this image in one paragraph of at most {words} words: who or what is there, the place, the light, the colors, the point of view "
                + $"and the visual style. {Style}"
        );
}
